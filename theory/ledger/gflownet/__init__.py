"""Rows of nabla: nabla-GFlowNet on the denoising chain."""
