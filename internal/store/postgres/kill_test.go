package postgres_test

func runWriter() bool { return false }
