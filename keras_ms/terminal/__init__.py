"""What a command says and hears: progress, signals, lost outputs, the words to go on with."""
