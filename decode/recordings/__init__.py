"""Reading raw recordings of one modality, shared by the data sets that hold them."""
