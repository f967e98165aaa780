"""Raw teleoperation logs: one synchroniser and one mapping schema for every lab's way of logging."""
