"""Scale: what a run of a given size takes (`palate.scale.plan`)."""
