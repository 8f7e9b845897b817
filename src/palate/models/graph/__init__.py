"""Graph models: filters of the item-item graph, and graph neural networks on the user-item graph."""
