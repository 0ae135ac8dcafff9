"""`tuft store`: what an operator does with a store, beside serving from it."""
