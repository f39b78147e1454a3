/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A line from the terminal without echo. The line goes from the kernel's terminal buffer straight into secret memory.
 *
 * A signal must not leave the terminal without echo: those that end or stop a program are caught while we wait, the
 * terminal is put right, and then the signal does what it would have done. They are let in only inside ppoll, so none
 * is lost between a look and the wait.
 */
#include "cli/common.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <termios.h>

enum { LINE_BYTES = 4096 }; /* a terminal's line has at most 4095 */

DEFINE_CLEANUP(secbuf_free, struct secbuf *)

static const int caught[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP };
enum { N_CAUGHT = sizeof caught / sizeof *caught };

static volatile sig_atomic_t came;

static void on_signal(int sig)
{
	came = sig;
}

static void put_text(int tty, const char *s)
{
	/* A terminal that shows nothing will not answer either: the read tells. */
	if (cli_write(tty, s, strlen(s), NULL) < 0)
		return;
}

/* One try: 0, -errno, or -EINTR with `came` set. The terminal is as before at the end. */
static int ask(int tty, const char *prompt, char *line, size_t *ret_len, const sigset_t *waiting)
{
	struct termios before, quiet;
	if (tcgetattr(tty, &before) < 0)
		return -errno;
	quiet = before;
	quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHOE | ECHOK | ECHONL);
	quiet.c_lflag |= ICANON | ISIG;
	/* Flush: what was typed before the question was seen (and echoed) is no answer to it. */
	if (tcsetattr(tty, TCSAFLUSH, &quiet) < 0)
		return -errno;
	put_text(tty, prompt);

	int r = 0;
	size_t len = 0;
	for (;;) {
		struct pollfd p = { .fd = tty, .events = POLLIN };
		if (ppoll(&p, 1, NULL, waiting) < 0) {
			r = -errno;
			break;
		}
		ssize_t n = read(tty, line + len, LINE_BYTES - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			r = -errno;
			break;
		}
		if (n == 0) {
			r = len ? 0 : -ENODATA;
			break;
		}
		len += (size_t)n;
		if (line[len - 1] == '\n') {
			len--;
			break;
		}
		if (len == LINE_BYTES) {
			r = -EMSGSIZE;
			break;
		}
	}
	(void)tcsetattr(tty, TCSADRAIN, &before);
	put_text(tty, "\n");
	*ret_len = len;
	return r;
}

int cli_prompt(const char *prompt, struct secbuf **ret, struct err *e)
{
	cleanup_close int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	if (tty < 0)
		return err_set(e, ENOTTY, "there is no terminal to ask on");
	CLEANUP_WITH(secbuf_freep) struct secbuf *line = secbuf_new(LINE_BYTES);
	if (!line)
		return err_set(e, ENOMEM, "out of secret memory");

	struct sigaction old[N_CAUGHT], catch = { .sa_handler = on_signal };
	sigset_t set, mask, waiting;
	sigemptyset(&catch.sa_mask);
	sigemptyset(&set);
	for (int i = 0; i < N_CAUGHT; i++)
		sigaddset(&set, caught[i]);
	(void)pthread_sigmask(SIG_BLOCK, &set, &mask);
	waiting = mask;
	for (int i = 0; i < N_CAUGHT; i++)
		sigdelset(&waiting, caught[i]);

	int r;
	size_t len = 0;
	do {
		for (int i = 0; i < N_CAUGHT; i++) {
			(void)sigaction(caught[i], NULL, &old[i]);
			if (old[i].sa_handler != SIG_IGN) /* nohup keeps its meaning */
				(void)sigaction(caught[i], &catch, NULL);
		}
		came = 0;
		r = ask(tty, prompt, secbuf_bytes(line), &len, &waiting);
		for (int i = 0; i < N_CAUGHT; i++)
			(void)sigaction(caught[i], &old[i], NULL);
		if (r == -EINTR && came) {
			/* Now it does what it does without us: ends the program, or stops it here. */
			int sig = came;
			sigset_t one;
			sigemptyset(&one);
			sigaddset(&one, sig);
			(void)raise(sig);
			(void)pthread_sigmask(SIG_UNBLOCK, &one, NULL);
			(void)pthread_sigmask(SIG_BLOCK, &one, NULL);
		}
	} while (r == -EINTR && came == SIGTSTP);
	(void)pthread_sigmask(SIG_SETMASK, &mask, NULL);

	if (r == -ENODATA)
		return err_set(e, ENODATA, "nothing was typed");
	if (r < 0)
		return err_sys(e, r, "cannot read from the terminal");
	struct secbuf *answer = secbuf_from(secbuf_data(line), len);
	if (!answer)
		return err_set(e, ENOMEM, "out of secret memory");
	*ret = answer;
	return 0;
}
