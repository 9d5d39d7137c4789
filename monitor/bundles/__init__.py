"""What is done with bundles that are kept: checked, moved, packed, compared and told of."""
