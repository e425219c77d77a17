"""The build of an entity-labelled image dataset (I2E) from image and alt-text pairs."""
