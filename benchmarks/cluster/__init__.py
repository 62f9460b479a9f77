"""What a disaggregated deployment costs on this machine: start, memory, idle CPU, a warm call."""
