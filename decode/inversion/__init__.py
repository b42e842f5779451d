"""From a model of the voxels to the picture that explains them best."""
