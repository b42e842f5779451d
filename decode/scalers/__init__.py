"""What is fitted inside a fold, on one subject's training rows, before any encoder; one file per scaler."""
