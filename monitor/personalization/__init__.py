"""Learning from the person's feedback: labels, conditions, nightly retraining, and what is known of their voice."""
