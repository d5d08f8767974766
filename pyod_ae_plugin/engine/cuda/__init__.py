"""What runs on a GPU only: copies beside computations, CUDA graphs, and the fused kernel."""
