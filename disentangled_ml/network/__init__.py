"""Audio to an embedding: frontends, backbones, masks, and the network of a checkpoint."""
