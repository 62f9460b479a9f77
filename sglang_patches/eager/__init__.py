"""What an answer adds to the next prompt is computed ahead: the HTTP process says what, the scheduler when."""
