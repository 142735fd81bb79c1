"""Trains the small models that ship with the package; nothing else imports this."""
