"""Images, masks, videos, catalogs and tables: reading, checking and writing them."""
