"""Autoencoders of interactions (CDAE, Mult-DAE, Mult-VAE, RecVAE) and of ratings (AutoRec, SparseFC)."""
