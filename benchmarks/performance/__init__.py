"""Every figure that has a bar, in one run, and the page that shows them."""
