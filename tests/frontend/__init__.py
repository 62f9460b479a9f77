"""Frontend programs and example agents against both topologies."""
