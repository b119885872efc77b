"""How good an embedding is: exact retrieval metrics in bounded memory."""
