"""The quality of visible tokens: heads that learn it, and the loss that they learn it by."""
