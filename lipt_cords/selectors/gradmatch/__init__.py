"""GradMatch: orthogonal matching pursuit on gradients."""
