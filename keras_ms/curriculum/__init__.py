"""From clean images to noisy ones: subsets of a class by density, trained on in stages."""
