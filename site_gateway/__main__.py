"""``python -m site_gateway`` is ``fedmq gateway``."""

from site_gateway.cli import main

if __name__ == "__main__":
    main()
