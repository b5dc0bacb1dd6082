"""The coordinator, tidying the hub every second instead of every ten minutes: a soak has its rounds in minutes."""

from coordinator import schedule
from coordinator.__main__ import main

if __name__ == "__main__":
    schedule.TIDY_EVERY_S = 1.0
    main()
