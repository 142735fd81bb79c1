"""What users type: parse, call the engine, show. No tensors here."""
