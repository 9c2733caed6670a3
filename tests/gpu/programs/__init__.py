"""Programs that the GPU tests start in processes of their own."""
