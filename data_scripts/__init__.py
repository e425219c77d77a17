"""The build of an entity-labelled image data set (I2E) from image and alt-text pairs."""
