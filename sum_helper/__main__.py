"""``python -m sum_helper`` is ``fedmq helper``."""

from sum_helper.cli import main

if __name__ == "__main__":
    main()
