"""Stages over an index: what each layer is made of, making it, and asking."""
