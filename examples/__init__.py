"""Examples of code outside the package `ditf`, which the documentation explains and the tests run."""
