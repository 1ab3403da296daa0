"""The instrument: scenes with known factors, readers of their pictures, and the training of small models."""
