# Executes its arguments in order and exits. The first argument is a mark by which the program and its
# descendants are found.
use strict;
use POSIX ();

my $mark = shift @ARGV;
$| = 1;

sub stay { sleep 1000 while 1 }

# Starts an orphan in its own session.
sub daemon {
    my ($keeps_stdout) = @_;
    pipe(my $ready, my $told) or die;
    if (!fork) {
        fork and POSIX::_exit(0);
        POSIX::setsid();
        fork and POSIX::_exit(0);
        close $ready;
        open STDIN, '<', '/dev/null';
        open STDERR, '>', '/dev/null';
        open STDOUT, '>', '/dev/null' if !$keeps_stdout;
        close $told;
        stay();
    }
    close $told;
    wait;
    # This reaches the end of the file when the last process has closed the pipe.
    <$ready>;
}

# Starts a chain of short-lived processes, each of which starts the next in a new session and exits.
sub relay {
    return if fork;
    open STDOUT, '>', '/dev/null';
    while (1) {
        fork and POSIX::_exit(0);
        POSIX::setsid();
        select undef, undef, undef, 0.002;
    }
}

for (@ARGV) {
    my ($do, $what) = split /=/, $_, 2;
    if    ($do eq 'ignore')   { $SIG{$_} = 'IGNORE' for qw(TERM HUP INT PIPE) }
    elsif ($do eq 'daemon')   { daemon(0) }
    elsif ($do eq 'holder')   { daemon(1) }
    elsif ($do eq 'child')    { fork or stay() }
    elsif ($do eq 'relay')    { relay() }
    elsif ($do eq 'setsid')   { if (my $child = fork) { waitpid $child, 0; exit($? >> 8) } POSIX::setsid() }
    elsif ($do eq 'polite')   { $SIG{TERM} = sub { print "bye\n"; POSIX::_exit(0) } }
    elsif ($do eq 'say')      { print "$what\n" }
    elsif ($do eq 'pid')      { print "$$\n" }
    elsif ($do eq 'half')     { print $what }
    elsif ($do eq 'read')     { <STDIN> }
    elsif ($do eq 'echo')     { while (<STDIN>) { print } }
    elsif ($do eq 'close')    { POSIX::close(1) }
    elsif ($do eq 'guardian') { kill $what, getppid }
    # The signal must never reach the group of the process that started this program.
    elsif ($do eq 'group')    { getpgrp == $$ or die; kill $what, 0 }
    elsif ($do eq 'exit')     { exit $what }
    elsif ($do eq 'stay')     { stay() }
    else                      { die "unknown command: $do" }
}
