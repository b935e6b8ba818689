"""What all stages share: a room a subject, and beside the rooms what every room uses."""
