"""What a release holds beside wheel and sdist: the registry's entry, the one-file bundle, the container image."""
