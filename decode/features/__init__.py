"""What targets are made of: pretrained networks that are run over stimuli."""
