"""DEN on scikit-learn's digits, small and faithful: ten tasks in sequence, beside five other ways to learn them."""
