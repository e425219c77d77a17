"""What a trained model is used for: naming and finding."""
