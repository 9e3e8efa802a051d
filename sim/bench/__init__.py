"""`medsa-bench`: time, memory and bytes on this machine, beside a plain implementation."""
