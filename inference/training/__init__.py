"""Training: `fit`, what it keeps, and what it does when a step fails."""
