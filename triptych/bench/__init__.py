"""Speed, measured: separate processes, interleaved, medians."""
