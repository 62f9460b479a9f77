"""What a call costs the processor, part by part."""
