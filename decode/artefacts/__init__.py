"""What lies on disk between stages: who writes it and who reads it find it here."""
