"""What the methods minimise, and the penalties that hold them back."""
