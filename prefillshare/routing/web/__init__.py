"""HTTP: what clients may send, how it is read, and the form in which they are answered."""
