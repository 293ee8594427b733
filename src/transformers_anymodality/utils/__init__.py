"""What every folder may use, and what uses none of them."""
