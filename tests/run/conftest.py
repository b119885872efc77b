"""What trains here is a run, not a network: it gets one whose step is traced at once."""

import small_runs

small_is_tiny = small_runs.small_is_tiny
