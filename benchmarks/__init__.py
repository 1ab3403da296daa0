"""What is timed, and measured at full size; not a part of the installed package."""
