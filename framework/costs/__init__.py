"""What sampling and training cost: operations, seconds, memory."""
