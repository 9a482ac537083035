/* A PKCS#11 module that passes everything to SoftHSM, except for what KMSFS_SHIM (words, read at each call) says:
 *
 *   no-gcm    AES-GCM is not offered
 *   no-hmac   HMAC-SHA-256 is not offered
 *   no-512    HMAC-SHA-512 is not offered
 *   no-ec     EC key pairs are not offered
 *   own-iv    AES-GCM encryption takes another IV than the caller's, as HSMs do that insist on their own
 *   slow      an HMAC takes 3 ms
 *   broken    every cryptographic operation fails with CKR_DEVICE_ERROR
 *   fails     every cryptographic operation fails with CKR_FUNCTION_FAILED
 *   confused  every cryptographic operation fails with CKR_GENERAL_ERROR, which SoftHSM also says of a bad tag
 *   gone      there are no slots
 *   removed   there are no slots, and every operation and search fails with CKR_DEVICE_REMOVED
 *
 * After kmsfs_shim_die() it is broken until it is initialised again.
 */
#define _GNU_SOURCE
#ifndef SOFTHSM
#define SOFTHSM "libsofthsm2.so"
#endif
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INITIALIZE = 0, GET_SLOT_LIST = 4, FIND_OBJECTS_INIT = 26, ENCRYPT_INIT = 29, DECRYPT_INIT = 33, SIGN_INIT = 42, GENERATE_KEY_PAIR = 59, FUNCTIONS = 68 };
enum { OK = 0, DEVICE_ERROR = 0x30, FUNCTION_FAILED = 0x6, GENERAL_ERROR = 0x5, DEVICE_REMOVED = 0x32, MECHANISM_INVALID = 0x70, AES_GCM = 0x1087, SHA256_HMAC = 0x251, SHA512_HMAC = 0x271, EC_KEY_PAIR_GEN = 0x1040 };

typedef unsigned long ulong;
typedef struct { ulong type; void *parameter; ulong length; } mechanism;
typedef struct { unsigned char version[2]; void *function[FUNCTIONS]; } function_list;
typedef struct { unsigned char *iv; ulong iv_length, iv_bits; unsigned char *aad; ulong aad_length, tag_bits; } gcm;

static function_list real, own;
static int dead;

static int told(const char *word) {
    const char *words = getenv("KMSFS_SHIM");
    return words && strstr(words, word);
}

static ulong trouble(void) {
    if (told("removed")) return DEVICE_REMOVED;
    if (told("confused")) return GENERAL_ERROR;
    if (told("fails")) return FUNCTION_FAILED;
    if (told("broken") || dead) return DEVICE_ERROR;
    return OK;
}

static ulong initialize(void *arguments) {
    dead = 0;
    return ((ulong (*)(void *))real.function[INITIALIZE])(arguments);
}

static ulong get_slot_list(unsigned char present, ulong *list, ulong *count) {
    if (told("gone") || told("removed")) { *count = 0; return OK; }
    return ((ulong (*)(unsigned char, ulong *, ulong *))real.function[GET_SLOT_LIST])(present, list, count);
}

static ulong find_objects_init(ulong session, void *template, ulong count) {
    if (told("removed")) return DEVICE_REMOVED;
    return ((ulong (*)(ulong, void *, ulong))real.function[FIND_OBJECTS_INIT])(session, template, count);
}

static ulong start(int function, ulong session, mechanism *how, ulong key) {
    ulong code = trouble();
    return code ? code : ((ulong (*)(ulong, mechanism *, ulong))real.function[function])(session, how, key);
}

static ulong encrypt_init(ulong session, mechanism *how, ulong key) {
    if (how->type == AES_GCM && told("no-gcm")) return MECHANISM_INVALID;
    if (how->type == AES_GCM && told("own-iv")) {
        static unsigned char counter;
        unsigned char iv[12] = {0};
        gcm changed = *(gcm *)how->parameter;
        iv[0] = ++counter;
        changed.iv = iv;
        mechanism other = {how->type, &changed, how->length};
        return start(ENCRYPT_INIT, session, &other, key);
    }
    return start(ENCRYPT_INIT, session, how, key);
}

static ulong decrypt_init(ulong session, mechanism *how, ulong key) {
    return start(DECRYPT_INIT, session, how, key);
}

static ulong sign_init(ulong session, mechanism *how, ulong key) {
    if (how->type == SHA256_HMAC && told("no-hmac")) return MECHANISM_INVALID;
    if (how->type == SHA512_HMAC && told("no-512")) return MECHANISM_INVALID;
    if (told("slow")) usleep(3000);
    return start(SIGN_INIT, session, how, key);
}

static ulong generate_key_pair(ulong session, mechanism *how, void *public, ulong public_count, void *private,
                               ulong private_count, ulong *public_key, ulong *private_key) {
    if (how->type == EC_KEY_PAIR_GEN && told("no-ec")) return MECHANISM_INVALID;
    return ((ulong (*)(ulong, mechanism *, void *, ulong, void *, ulong, ulong *, ulong *))
            real.function[GENERATE_KEY_PAIR])(session, how, public, public_count, private, private_count,
                                              public_key, private_key);
}

void kmsfs_shim_die(void) { dead = 1; }

ulong C_GetFunctionList(function_list **list) {
    void *softhsm = dlopen(SOFTHSM, RTLD_NOW | RTLD_LOCAL);
    function_list *found;
    if (!softhsm) softhsm = dlopen("/usr/lib/softhsm/libsofthsm2.so", RTLD_NOW | RTLD_LOCAL);
    if (!softhsm) return DEVICE_ERROR;
    ((ulong (*)(function_list **))dlsym(softhsm, "C_GetFunctionList"))(&found);
    real = *found;
    own = real;
    own.function[INITIALIZE] = initialize;
    own.function[GET_SLOT_LIST] = get_slot_list;
    own.function[FIND_OBJECTS_INIT] = find_objects_init;
    own.function[ENCRYPT_INIT] = encrypt_init;
    own.function[DECRYPT_INIT] = decrypt_init;
    own.function[SIGN_INIT] = sign_init;
    own.function[GENERATE_KEY_PAIR] = generate_key_pair;
    *list = &own;
    return OK;
}
