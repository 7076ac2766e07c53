"""Releases of the task: signed by the authority, published, widened, withdrawn, and what became of them."""
