"""One call, from its body to the end of its answer: attempts on pairs of workers, two legs each."""
